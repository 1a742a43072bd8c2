"""The summary at the head of a page: plain sentences, each made from the numbers of this study alone."""
