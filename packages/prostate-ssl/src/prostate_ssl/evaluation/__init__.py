"""What the frozen features are worth: probes, tables, pictures."""

from prostate_ssl.evaluation.backbone import Backbone, load_backbone
from prostate_ssl.evaluation.log_regression import eval_log_regression_with_model
from prostate_ssl.evaluation.probe import ProbeResult, knn_probe, leave_one_out, linear_probe

__all__ = [
    "Backbone",
    "ProbeResult",
    "eval_log_regression_with_model",
    "knn_probe",
    "leave_one_out",
    "linear_probe",
    "load_backbone",
]
