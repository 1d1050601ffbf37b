"""This worker's hold on jobs in Redis: how it takes them, keeps them, ends them, and hands them back when it leaves."""
