"""What can be deleted: bringup's own intermediate files, and what the manual way left behind."""
