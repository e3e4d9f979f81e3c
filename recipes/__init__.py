"""The recipes that ship with dilkit; read them with `importlib.resources.files("dilkit.recipes")`."""
