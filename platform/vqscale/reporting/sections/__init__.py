"""The page's sections: `section(data)` of each module gives one, or None where there is nothing to show."""
