"""Drawing in steps by models that work together: one plans, one draws and edits, one inspects."""
