# /// script
# dependencies = ["mlflow==3.17.2"]
#
# [tool.bench]
# title = "`mlflow models predict`"
# command = ["mlflow", "models", "predict", "--model-uri", "{model}", "--env-manager", "local",
#   "--content-type", "csv", "--input-path", "{input}", "--output-path", "{output}"]
# env = "mlflow_pyfunc"
# inputs = ["csv"]
# output = "answers.json"
# ///
"""MLflow's own command; all of it is above. It writes the labels as JSON, without the rows."""
