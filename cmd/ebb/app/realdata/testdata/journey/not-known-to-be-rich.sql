SELECT visitor FROM bought
EXCEPT SELECT visitor FROM households WHERE income IN ('100-124K', '125-149K', '150-174K', '175-199K', '200-249K', '250K+')
