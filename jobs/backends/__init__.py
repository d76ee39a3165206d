"""The Ray cluster and the MLflow server behind the protocols of `jobs.interfaces`, and fakes of both."""
