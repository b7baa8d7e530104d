"""How the embedded default was made: a small world of composed images with captions in the paper's own
templates, and what is trained on it. In the order of use; each with a command of its own where it is a stage,
`python -m recipe.STAGE`:

    artwork      fetches openly licensed emoji artwork and reads its sprites (stage)
    objects      what the world holds, what is held out of all training, the artworks, the lopsided categories
    sprites      sprites mirrored, tinted, and changed into things that have no name
    scenery      drawn scenes
    backdrops    plain colors and drawn scenes, with their phrases
    looks        what the words dark, dirty, small, ... do to an image
    filters      whole-image styles with random parameters
    captions     a scene put into words, with slots where there is no name
    world        a random scene, drawn and captioned; sheets the contact sheets to check it by
    vocabulary   the WordPiece vocabulary of the captions (stage)
    codes        linear codes of what sprites and styles look like: words without names (stage)
    data         composes the training images once, and those that training never sees (stage)
    sizes        the sizes of the model
    training     the loop, averages and checkpoints of all trainings; muon its optimizer for matrices
    autoencoder  trains the autoencoder (stage)
    diffusion    encodes the images; trains text encoder and UNet (stage)
    encoder      trains the encoder that reads a word off images (stage)
    resnet       the judge: its network and its file; recognizer trains it (stage)
    recognize    what of a model's images the judge recognizes; editing what words are good for (stages)
    clip         trains the small CLIP that evaluates; judge reads it, augment varies its images (stage)
    evaluate     measures the finished model; stopwatch its time and memory (stage)
    examples     the images of examples/, planned in shots: held-out things as a user might have photographed
                 them (stage)
    ship         puts it all into weights/tiny, and what only the recipe needs into recipe/shipped (stage)
    restore      makes checkpoints from what was shipped, to train on from there (stage)
    showcase     the image of the README (stage)

NOTES.md says how the world is made and why. Of the rest of the project only bench/ and the tests import this
package; its working files live in `recipe-work/`, which git ignores.
"""
