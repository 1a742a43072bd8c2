"""One command for a machine with a GPU: is every kernel right there, and then how fast is it?"""
