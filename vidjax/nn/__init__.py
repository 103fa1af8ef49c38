"""Building blocks that the backbones share."""
