"""Foreign names of every tensor: a module per kind of network, with our names beside those of other projects."""
