"""The shared books of one account: requests, the day's count, cooldowns; across every process that uses the key."""
