"""Object storage as the medium of job folders and built data sets, for clusters without a shared file system."""
