"""What runs on the cluster: job specs, launcher, tracking, and one `main()` for each kind of job."""
