from eventflow import Human, Sleep, Wait, Workflow


def look(state):
    return {"sum": 80 if state["order"] == 7 else 5}


flow = (
    Workflow("refunds")
    .add_node("look", look)
    .add_node(
        "ask",
        Human(prompt=lambda state: f"Refund {state['sum']} for order {state['order']}?", writes="agreed", type=bool),
    )
    .add_node("rest", Sleep(0.2))
    .add_node("pay", Wait(signal="paid", writes="receipt"))
    .add_node("refuse", lambda state: {"receipt": None})
    .add_edge("look", "ask", when=lambda state: state["sum"] > 50)
    .add_edge("look", "rest")
    .add_edge("ask", "rest", when=lambda state: state["agreed"])
    .add_edge("ask", "refuse")
    .add_edge("rest", "pay")
    .set_start("look")
)
