"""Stable Diffusion 1.x / 2.x and our small one of the same classes: VAE, CLIP text encoder, UNet."""
