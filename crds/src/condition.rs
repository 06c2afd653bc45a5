//! The types and reasons of conditions.

use std::fmt;

/// Declares an enum whose names are its values in the API.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Its name in the API.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => stringify!($variant),)* }
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

names! {
    /// The type of a condition.
    ConditionType {
        /// Of a claim: every port has a slot.
        Allocated,
        /// Of a claim: the load balancer serves every slot as asked.
        Programmed,
        /// Of a claim: it is allocated and programmed, has an address, and every
        /// port has a backend. Of a class: its load balancers work.
        Ready,
        /// Of a class: its spec can be carried out.
        Accepted,
    }
}

names! {
    /// The reason of a condition.
    Reason {
        /// The requested port is held by another claim, cools down, or has a foreign listener.
        PortTaken,
        /// The class does not allow requests for this port.
        PortNotAllowed,
        /// No port, listener or load balancer is left in the class.
        PoolExhausted,
        /// The namespace has as many ports as the class allows.
        QuotaExceeded,
        /// The class may not be used in this namespace.
        NotPermitted,
        /// The provider of the class cannot carry out the spec.
        Unsupported,
        /// No load balancer of the class has the requested address.
        AddressUnknown,
        /// The SharedLB that a source would create exists: it belongs to another
        /// owner, or is being deleted and kept by a finalizer.
        NameTaken,
        /// The API server rejects the SharedLB of a source.
        Rejected,
        /// The class does not exist.
        NoClass,
        /// No class was named, and none is the default.
        NoDefaultClass,
        /// The provider refuses, or a limit that all load balancers share is used
        /// up. A retry does not help before that is changed.
        ProviderRefused,
        /// A foreign listener has the port on the load balancer.
        PortInUse,
        /// The capacity of the load balancer (listeners, targets) is used up, by
        /// foreign listeners or by more targets than were known.
        NoRoom,
        /// Why [`ConditionType::Programmed`] is true although traffic does not
        /// go to all backends: there are more than the load balancer can take.
        BackendsLeftOut,
        /// Why [`ConditionType::Ready`] is true although one of the load balancer's
        /// addresses leads to no backend: there is none of its IP family.
        AddressWithoutBackends,
        /// The load balancer has had no address for too long.
        AddressNotAssigned,
        /// A load balancer was deleted by another client. Of an Event only.
        LoadBalancerGone,
        /// A class was deleted although it has load balancers: nothing deletes them. Of an
        /// Event only.
        LoadBalancersLeft,
        /// The provider throttles requests, which are repeated later.
        Throttled,
        /// The provider does not answer; requests are repeated later.
        Unreachable,
        /// In progress.
        Pending,
        /// No backend takes traffic.
        NoBackends,
        /// Why [`ConditionType::Allocated`] is true.
        Allocated,
        /// Why [`ConditionType::Programmed`] is true.
        Programmed,
        /// Why [`ConditionType::Ready`] is true.
        Ready,
        /// Why [`ConditionType::Accepted`] is true.
        Accepted,
    }
}
