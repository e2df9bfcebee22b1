"""What the leaderboard and the scenario runner load: `--agent leaderboard_agent.py`."""

from carlarl_client.leaderboard import CarlaRLAgent, get_entry_point

__all__ = ["CarlaRLAgent", "get_entry_point"]
