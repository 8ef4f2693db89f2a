"""How ``weights/emoji`` was made: a text-to-image latent diffusion model, small enough for a laptop.

The account reads in the order in which the model is trained:

1. ``data``         pictures of emoji and their names, rendered from openly licensed sets
2. ``captions``     what a picture is called, which pairs are never shown, and a CLIP tokenizer
3. ``autoencoder``  pictures to latents and back (latent diffusion, arXiv:2112.10752)
4. ``denoiser``     noise to latents, guided by words (DDPM, arXiv:2006.11239)
5. ``flow``         the same on straight lines (rectified flow, arXiv:2209.03003)
6. ``export``       the weights as diffusers folders
7. ``evaluate``     does it draw what it is asked for? judged by ``classifier``

``python -m training --help`` runs each step. Nothing in the program imports this package.
"""
