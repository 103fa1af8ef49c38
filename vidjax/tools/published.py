"""Figures to reach: counted on the official code, accuracy as published."""

from typing import Any

PUBLISHED: dict[str, dict[str, Any]] = {
  "xvit_b16_k400": {
    "published_params": 93_790_864,
    "published_gmacs_per_view": 281.43,
    "published": {"K400": [80.2, 94.7]},
    "views": "1x3",
  },
  "xvit_b16_k600": {
    "published_params": 93_944_664,
    "published_gmacs_per_view": 281.43,
    "published": {"K600": [84.51, 96.26]},
    "views": "1x3",
  },
  "xvit_b16_ssv2": {
    "published_params": 93_617_070,
    "published_gmacs_per_view": 281.43,
    "published": {"SSv2": [67.19, 91.0]},
    "views": "2x3",
  },
  "xvit_b16_8f_ssv2": {
    "published_params": 93_617_070,
    "published_gmacs_per_view": 140.72,
    "published": {"SSv2": [63.4, 89.6]},
    "views": "1x3",
  },
  "xvit_b32_8f_ssv2": {
    "published_params": 95_273_646,
    "published_gmacs_per_view": 35.37,
    "published": {"SSv2": [59.8, 87.4]},
    "views": "1x3",
  },
  "xvit_l32_8f_ssv2": {
    "published_params": 319_342_766,
    "published_gmacs_per_view": 123.23,
    "published": {"SSv2": [61.0, 88.3]},
    "views": "1x3",
  },
}
