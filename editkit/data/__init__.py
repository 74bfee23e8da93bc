"""Reading, checking and preparing examples."""
