"""What UNets are made of: a file for each kind of blocks."""
