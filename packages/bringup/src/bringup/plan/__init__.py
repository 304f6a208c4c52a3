"""Recipe + facts + catalog → an ordered plan file that a person can read, diff, edit and commit."""
