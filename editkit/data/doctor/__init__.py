"""The pair doctor: what is wrong with the pictures, texts and splits of a data set, found in one pass and an index."""
