"""Plans that wait for answers and decide by them: each can be paused, resumed, stopped and aborted at any time."""

from bluesky_bayes.plans.counting import count_until_decisive
from bluesky_bayes.plans.optimizing import optimize
from bluesky_bayes.plans.placing import next_best_point, scan_where_models_differ
from bluesky_bayes.plans.published import wait_for_published
from bluesky_bayes.plans.repeating import bisect_model_change, scan_until_decisive
from bluesky_bayes.plans.waiting import analysed, wait_for_result

__all__ = [
    "analysed",
    "bisect_model_change",
    "count_until_decisive",
    "next_best_point",
    "optimize",
    "scan_until_decisive",
    "scan_where_models_differ",
    "wait_for_published",
    "wait_for_result",
]
