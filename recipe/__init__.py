"""How the embedded default was made: a small world of composed pictures with captions in the paper's own
templates, and what is trained on it. In the order of use; each with a command of its own where it is a stage,
`python -m recipe.STAGE`:

    artwork      fetches openly licensed emoji artwork and reads its sprites (stage)
    objects      what the world holds, what is held out of all training, and the styles
    scenery      drawn scenes
    backdrops    plain colours and drawn scenes, with their phrases
    looks        what the words dark, dirty, mosaic, ... do to a picture
    captions     a scene put into words
    world        a random scene, drawn and captioned; contact sheets to check it by
    vocabulary   the WordPiece vocabulary of the captions (stage)
    data         composes the training pictures once, and those that training never sees (stage)
    sizes        the sizes of the model
    training     the loop, averages and checkpoints of all trainings
    autoencoder  trains the autoencoder (stage)
    diffusion    encodes the pictures; trains text encoder and UNet (stage)
    clip         trains the small CLIP that evaluates; judge reads it, augment varies its pictures (stage)
    evaluate     measures the finished model; stopwatch its time and memory (stage)
    examples     the pictures of examples/: held-out things as a user might have photographed them (stage)
    ship         puts it all into weights/tiny (stage)
    restore      makes checkpoints from weights/tiny, to train on from there (stage)
    showcase     the picture of the README (stage)

Of the rest of the project only bench/ and the tests import this package; its working files live in
`recipe-work/`, which git ignores.
"""
