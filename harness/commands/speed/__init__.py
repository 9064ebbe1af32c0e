"""Commands that measure the speed of this machine."""

TABLES = {
    "objectives": "harness.commands.speed.objectives:from_document",
    "evaluation": "harness.commands.speed.evaluation:from_document",
    "diversity": "harness.commands.speed.diversity:from_document",
    "runner": "harness.commands.speed.runner:from_document",
    "model": "harness.commands.speed.model:from_document",
    "peers": "harness.commands.speed.peers.page:from_document",
}
"""What makes the tables of NAME.json, which `detmodes speed NAME --output` wrote."""
