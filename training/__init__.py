"""How ``weights/emoji`` was made: a text-to-image latent diffusion model, small enough for a laptop.

The account reads in the order in which the model is trained:

1. ``data``         pictures of emoji and their names, rendered from openly licensed sets
2. ``captions``     what a picture is called, which pairs are never shown, and a CLIP tokenizer
3. ``autoencoder``  pictures to latents and back (latent diffusion, arXiv:2112.10752)
4. ``latents``      their unit variance, and those of ``scenes``, made anew for each batch and drawn on a ``canvas``
5. ``text``         words and pictures brought together, as CLIP does (arXiv:2103.00020)
6. ``denoiser``     noise to latents, guided by words (DDPM, arXiv:2006.11239)
7. ``flow``         the same on straight lines (rectified flow, arXiv:2209.03003)
8. ``decoder``      the autoencoder's second half once more, on latents that stay
9. ``export``       the weights as diffusers folders
10. ``card``        what the page says of it: names, examples
11. ``evaluate``    does it draw what it is asked for? judged by ``classifier`` and ``styles``, and by ``measures``

Apart from these, ``enlarge`` goes on to larger pictures, ``distil`` to few calls, and ``lora`` teaches the published
model one more style, without data.

``python -m training STEP`` runs one of them, and ``--help`` lists them. Nothing in the program imports this package.
"""
