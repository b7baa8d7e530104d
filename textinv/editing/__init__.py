"""What a learned word is good for (Gal et al. 2022, section 4 and Appendix A): painting it into an image,
changing an image from its own noise, tuning the model around it, choosing the best image, two words in one
prompt, a fairer word in place of a category's, and the methods that the paper compares with. One file each,
functions on a model and PIL images; `textinv edit` has a subcommand for each.
"""
