# /// script
# dependencies = ["mlflow==3.17.2", "pyspark==4.3.0"]
#
# [tool.bench]
# title = "`mlflow.pyfunc.spark_udf`"
# command = ["python", "{file}", "{model}", "{input}", "{output}", "{master}"]
# inputs = ["parquet"]
# key = "spark-udf"
# is_spark = true
# is_yardstick = true
# ///
"""MLflow's function for Spark, set up as its documentation says."""

import os
import sys

import mlflow.pyfunc
from pyspark.sql import SparkSession
from pyspark.sql.functions import struct

model, source, target, master = sys.argv[1:]
os.environ["PYSPARK_PYTHON"] = sys.executable
spark = (
    SparkSession.builder.master(master)
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .getOrCreate()
)
predict = mlflow.pyfunc.spark_udf(spark, model, result_type="string", env_manager="local")
rows = spark.read.parquet(source)
rows.withColumn("prediction", predict(struct(*rows.columns))).write.parquet(target)
spark.stop()
