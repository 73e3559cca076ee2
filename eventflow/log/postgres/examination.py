"""x"""
class Examined: pass
def examine(): pass
