"""What runs on the cluster: job specs, the launcher, tracking, and one `main()` per verb."""
