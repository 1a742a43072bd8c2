"""The first half page: plain sentences, every one made from the numbers of this study and from nothing else."""
