"""The pages of the site, and what draws, builds and runs them."""
