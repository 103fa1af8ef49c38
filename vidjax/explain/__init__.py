"""Where a model looks: attention in space and time, rollout, saliency."""
