"""Facts joined with the catalog: one rule, one function, one finding type. Ids and parameters, no words."""
