"""The only package that touches users' files."""
