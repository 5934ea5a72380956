"""What architectures cost: MACs and parameters, counted; latencies from tables; hard limits on any of them.

`jaxnas.costs.measuring`, which times operations and networks on the device, stands higher: import it by its name.
"""

from jaxnas.costs import latency, latency_files, limits
from jaxnas.costs.counted import arch_costs, is_additive, op_costs, supernet_costs
from jaxnas.costs.limits import CostFn, CostTable, Limit, cost_table, functions, make_limit, number, parse, table_costs
from jaxnas.supernets import Costs

__all__ = [
    "CostFn",
    "CostTable",
    "Costs",
    "Limit",
    "arch_costs",
    "cost_table",
    "functions",
    "is_additive",
    "latency",
    "latency_files",
    "limits",
    "make_limit",
    "number",
    "op_costs",
    "parse",
    "supernet_costs",
    "table_costs",
]
