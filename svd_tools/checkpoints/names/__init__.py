"""What every tensor is called elsewhere: a module for each kind of network, with our names beside those of others."""
