# /// script
# # Its workers end with an error under uvloop 0.22 and newer.
# dependencies = ["mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop==0.21.0"]
#
# [tool.bench]
# title = "MLServer, sklearn runtime"
# command = ["python", "{file}"]
# path = "/v2/models/model/infer"
# form = "v2"
# answer = ["outputs", 0, "data", 0]
# ///
"""MLServer with its scikit-learn runtime in one worker process, its default."""

import os

from mlserver_settings import start

start("mlserver_sklearn.SKLearnModel", os.environ["MODEL"] + "/model.pkl")
