"""Approvals: policy, votes and their events. Pure, so that gateway, worker and workflows share them."""
