"""The autoencoder between pixels and latents."""
