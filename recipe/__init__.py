"""How the embedded default was made: a small world of composed images with captions in the paper's own
templates, and the models trained on it. The modules in order of use; each stage is also a command,
`python -m recipe.STAGE`:

    artwork      fetches openly licensed emoji artwork and reads its sprites (stage)
    objects      the world's objects and artworks, what is held out of the model's training, the lopsided
                 categories
    sprites      mirrors and tints sprites, and changes them into things that have no name
    scenery      drawn scenes
    backdrops    plain colors and drawn scenes, with the phrases that name them
    looks        what the words dark, dirty, small, ... do to an image
    filters      whole-image styles with random parameters
    captions     puts a scene into words, with slots where there is no name
    world        draws and captions random scenes; sheets makes contact sheets to check them
    vocabulary   the WordPiece vocabulary of the captions (stage)
    codes        linear codes of how sprites and styles look: words without names (stage)
    data         composes, once, the training images and those that training never sees (stage)
    sizes        the sizes of the model
    training     the loop, averages and checkpoints of all training stages; muon is its optimizer for matrices
    autoencoder  trains the autoencoder (stage)
    diffusion    encodes the images; trains text encoder and UNet (stage)
    encoder      trains the encoder that predicts a word from images (stage)
    resnet       the judge: its network and its weights file
    recognizer   trains the judge (stage)
    recognize    measures what the judge recognizes in a model's images, made in sources, and keeps it in
                 parts; editing, with image_edits, measures what words can do; experiments is what these two
                 share (stages)
    clip         trains the small CLIP that evaluates, on images that augment changes; small_clip loads it
                 (stage)
    evaluate     measures the finished model; stopwatch, its time and memory (stage)
    examples     makes the images of examples/, planned in shots: held-out things as a user might have
                 photographed them (stage)
    ship         puts it all into weights/tiny, and what only the recipe needs into recipe/shipped (stage)
    restore      makes checkpoints from what was shipped, to continue training from there (stage)
    showcase     makes the README's image (stage)
    walkthrough  runs WALKTHROUGH.md, which makes its images, and writes it as a notebook (stage)

NOTES.md explains how the world is made and why. In the rest of the project only bench/ and the tests import
this package; its working files live in `recipe-work/`, which git ignores.
"""
