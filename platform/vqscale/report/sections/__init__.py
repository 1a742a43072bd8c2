"""The page's sections, each a function of the material: a section, or None where there is nothing to show."""
