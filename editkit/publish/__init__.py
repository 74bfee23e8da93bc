"""Publishing a run on the Hub."""
