"""What architectures cost: MACs and parameters, counted; latencies from tables; hard limits on any of them.

`jaxnas.costs.measuring`, which times operations and networks on the device, stands higher: import it by its name.
"""

from jaxnas.costs import latency, limits
from jaxnas.costs.counted import OP_COSTS, Costs, Place, arch_costs, op_cost, op_costs
from jaxnas.costs.limits import CostFn, CostTable, Limit, cost_table, make_limit, number, parse, table_costs

__all__ = [
    "OP_COSTS",
    "CostFn",
    "CostTable",
    "Costs",
    "Limit",
    "Place",
    "arch_costs",
    "cost_table",
    "latency",
    "limits",
    "make_limit",
    "number",
    "op_cost",
    "op_costs",
    "parse",
    "table_costs",
]
