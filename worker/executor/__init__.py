"""Drawing: what draws a job's images, on which device, how fast, and how it is noticed that a device fails."""
