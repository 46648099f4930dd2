"""What the documentation site is built with: staged pages, generated pages, a Sphinx extension."""
