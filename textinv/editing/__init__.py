"""Applications of a learned word (Gal et al. 2022, section 4 and Appendix A): painting it into an image,
editing an image from its own noise, tuning the model around it, choosing the best image, using two words in
one prompt, replacing a category's word with a fairer one, and the methods that the paper compares with. One
file each, with functions on a model and PIL images; `textinv edit` has a subcommand for each.
"""
