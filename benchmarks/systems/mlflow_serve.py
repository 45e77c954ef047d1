# /// script
# dependencies = ["mlflow==3.17.2"]
#
# [tool.bench]
# title = "`mlflow models serve`"
# command = ["mlflow", "models", "serve", "--model-uri", "{model}", "--env-manager", "local",
#   "--host", "127.0.0.1", "--port", "{port}", "--workers", "1"]
# path = "/invocations"
# form = "dataframe_records"
# answer = ["predictions", 0]
# ///
"""MLflow's own scoring server; all of it is the command above."""
