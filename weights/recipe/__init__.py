"""How the embedded default was made: a small world of composed pictures with captions in the paper's own
templates, and what is trained on it. In the order of use:

    artwork      fetches openly licensed emoji artwork and reads its sprites
    objects      what the world holds, what is held out of all training, and the styles
    backdrops    plain colours and drawn scenes
    looks        what the words dark, dirty, mosaic, ... do to a picture
    captions     a scene put into words
    world        a random scene, drawn and captioned; contact sheets to check it by
    vocabulary   the WordPiece vocabulary of the captions
    clip         trains the small CLIP that evaluates; judge reads it, augment varies its pictures
    evaluate     measures the finished model; stopwatch its time and memory

Nothing else in the project imports this package; its working files live in `recipe-work/`, which git ignores.
"""
