"""What is published of the registered models; nothing is re-measured here."""

from typing import Any

# Figures to reach, counted on the official code, and accuracy: top-1 and top-5
# in percent by data set, with the views (clips x crops) that it takes.
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
  "pst_t_k400": {
    "published_params": 28_531_222,
    "published_gmacs_per_view": 72.07,
    "published": {"K400": [78.2, 92.2]},
    "views": "4x3",
  },
  "pst_t_ssv2": {
    "published_params": 28_357_428,
    "published_gmacs_per_view": 72.07,
    "published": {"SSv2": [67.3, 90.5]},
    "views": "1x3",
  },
  "pst_t_ssv1": {
    "published_params": 28_357_428,
    "published_gmacs_per_view": 72.07,
    "published": {"SSv1": [53.6, 82.2]},
    "views": "1x3",
  },
  "pst_t_diving48": {
    "published_params": 28_260_534,
    "published_gmacs_per_view": 72.07,
  },
  "pst_b_k400": {
    "published_params": 89_065_688,
    "published_gmacs_per_view": 247.19,
    "published": {"K400": [81.8, 95.4]},
    "views": "4x3",
  },
  "pst_b_ssv2": {
    "published_params": 88_834_038,
    "published_gmacs_per_view": 247.19,
    "published": {"SSv2": [69.2, 91.9]},
    "views": "1x3",
  },
  "pst_l_k400": {
    "published_params": 198_478_972,
  },
  "laps_visformer_s_k400": {
    "published_params": 39_758_192,
    "published_gmacs_per_view": 40.136,
    "published": {"K400": [76.04, None]},
    "views": "10x3",
  },
  "visformer_s_2d_k400": {
    "published_params": 39_758_192,
    "published_gmacs_per_view": 39.074,
  },
  "visformer_s_joint_k400": {
    "published_params": 39_758_192,
    "published_gmacs_per_view": 46.509,
  },
  "laps_visformer_s_320_k400": {
    "published_gmacs_per_view": 345.682,
  },
  "laps_visformer_s_360_k400": {
    "published_gmacs_per_view": 434.018,
  },
  "laps_vit_b16_k400": {
    "published_params": 86_106_256,
    "published_gmacs_per_view": 146.381,
  },
  "laps_vit_b16_384_k400": {
    "published_params": 86_398_096,
    "published_gmacs_per_view": 493.407,
  },
  "laps_vit_l16_384_k400": {
    "published_gmacs_per_view": 1660.597,
  },
  "tokshift_b16_k400": {
    "published_params": 86_106_256,
    "published_gmacs_per_view": 140.658,
    "published": {"K400": [77.6, None]},
    "views": "10x3",
  },
  "tokshift_b16_384_k400": {
    "published_params": 86_398_096,
    "published_gmacs_per_view": 444.314,
    "published": {"K400": [79.63, None]},
    "views": "10x3",
  },
  "tokshift_l16_384_k400": {
    "published_gmacs_per_view": 2294.525,
    "published": {"K400": [80.4, None]},
    "views": "10x3",
  },
  "sifa_r50_16f_k400": {
    "published_params": 43_040_928,
    "published_gmacs_per_view": 24.0,
    "published": {"K400": [77.4, 93.3]},
    "views": "10x3",
  },
  "sifa_r50_32f_k400": {
    "published_params": 43_040_928,
    "published_gmacs_per_view": 48.0,
    "published": {"K400": [78.5, 93.6]},
    "views": "10x3",
  },
  "sifa_r50_64f_k400": {
    "published_params": 43_040_928,
    "published_gmacs_per_view": 96.0,
    "published": {"K400": [80.1, 94.4]},
    "views": "10x3",
  },
  "sifa_r50_16f_ssv1": {
    "published_params": 42_114_780,
    "published": {"SSv1": [52.7, 81.9]},
    "views": "1x3",
  },
  "sifa_r101_16f_k400": {
    "published_params": 63_554_272,
    "published_gmacs_per_view": 39.2,
    "published": {"K400": [78.7, 94.0]},
    "views": "10x3",
  },
  "sifa_r101_64f_k400": {
    "published_params": 63_554_272,
    "published_gmacs_per_view": 156.6,
    "published": {"K400": [81.3, 95.2]},
    "views": "10x3",
  },
  "c2d_r50_16f_k400": {
    "published_params": 40_140_192,
    "published_gmacs_per_view": 23.7,
    "published": {"K400": [72.0, 90.3]},
    "views": "10x3",
  },
  "sifa_swin_s_16f_k400": {
    "published_params": 60_954_586,
    "published_gmacs_per_view": 39.1,
  },
  "sifa_swin_b_16f_k400": {
    "published_params": 108_134_216,
    "published_gmacs_per_view": 68.9,
  },
  "sifa_swin_b_64f_k400": {
    "published_params": 108_134_216,
    "published_gmacs_per_view": 275.6,
    "published": {"K400": [83.1, 95.7]},
    "views": "4x3",
  },
  "sifa_swin_l_16f_k400": {
    "published_params": 242_785_828,
    "published_gmacs_per_view": 153.8,
  },
}

# The same of models whose figures nobody counted on official code: rows of the
# ablations of LAPS (official repository) and SIFA (paper), a larger TokShift
# and SIFA-Net, and baselines as their own authors trained them.
ALSO_PUBLISHED: dict[str, dict[str, Any]] = {
  "visformer_s_la_k400": {
    "published": {"K400": [75.57, None]},
    "views": "10x3",
  },
  "visformer_s_ps_k400": {
    "published": {"K400": [75.48, None]},
    "views": "10x3",
  },
  "tokshift_b16_16f_k400": {
    "published": {"K400": [77.95, None]},
    "views": "10x3",
  },
  "sifa_r101_32f_k400": {
    "published": {"K400": [79.8, 94.2]},
    "views": "10x3",
  },
  "tsm_r50_16f_k400": {
    "published": {"K400": [74.7, None]},
    "views": "10x3",
  },
  "temporal_conv_r50_16f_k400": {
    "published": {"K400": [74.1, None]},
    "views": "10x3",
  },
  "timesformer_b16_8f_k400": {
    "published": {"K400": [77.9, 93.2]},
    "views": "1x3",
  },
  "video_swin_t_k400": {
    "published": {"K400": [78.8, 93.6]},
    "views": "4x3",
  },
}

# Where the authors released trained weights of a model.
RELEASED: dict[str, str] = {
  "xvit_b16_k600": "https://www.adrianbulat.com/downloads/NeurIPS2021/models/xvit_b16_16_k600.pth",
  "xvit_b16_ssv2": "https://www.adrianbulat.com/downloads/NeurIPS2021/models/xvit_b16_16_ss2.pth",
  "pst_t_k400": "https://modelscope.cn/models/damo/cv_pathshift_action-recognition",
  "timesformer_b16_8f_k400": "https://github.com/facebookresearch/TimeSformer",
  "video_swin_t_k400": "https://github.com/SwinTransformer/Video-Swin-Transformer",
}

# Papers of the systems and baselines, by the name of their method: arXiv.
PAPERS: dict[str, str] = {
  "C2D": "1711.07971",
  "LAPS": "2207.05526",
  "SIFA": "2206.06931",
  "Swin": "2103.14030",
  "TPS": "2207.13259",
  "TSM": "1811.08383",
  "TimeSformer": "2102.05095",
  "TokShift": "2108.02432",
  "ViT": "2010.11929",
  "Video Swin": "2106.13230",
  "Visformer": "2104.12533",
  "X-ViT": "2106.05968",
}

# The beginning of a model's name, of which the longest counts, to what joins
# its frames and the paper that this is from.
OPERATIONS: dict[str, tuple[str, str]] = {
  "xvit": ("space-time mixing", "X-ViT"),
  "vit": ("none", "ViT"),
  "vit_joint": ("joint attention", "TimeSformer"),
  "timesformer": ("divided attention", "TimeSformer"),
  "tsm": ("channel shift", "TSM"),
  "tokshift": ("token shift", "TokShift"),
  "pst": ("patch shift, channel shift", "TPS"),
  "swin": ("none", "Swin"),
  "video_swin": ("attention in 3-D windows", "Video Swin"),
  "laps": ("leap attention, periodic shift", "LAPS"),
  "visformer_s_la": ("leap attention", "LAPS"),
  "visformer_s_ps": ("periodic shift", "LAPS"),
  "visformer_s_plain": ("plain shift", "LAPS"),
  "visformer_s_2d": ("none", "Visformer"),
  "visformer_s_joint": ("joint attention", "LAPS"),
  "visformer_la": ("leap attention", "LAPS"),
  "visformer_ps": ("periodic shift", "LAPS"),
  "visformer_2d": ("none", "Visformer"),
  "sifa": ("inter-frame attention", "SIFA"),
  "sifa_per_frame": ("inter-frame attention, stem of one frame", "SIFA"),
  "c2d": ("none but the stem", "SIFA"),
  "c2d_motion": ("none", "C2D"),
  "temporal_conv": ("temporal convolution", "SIFA"),
}
