"""The recipe: its schema, how it is read, overridden and refused, and the recipes that come with the product."""
