//! The types and reasons of conditions: the words in which a verdict reaches
//! the user.

use std::fmt;

/// Declares an enum whose names are its values in the API, so that a name is
/// written down once.
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
        /// Somebody else holds the port that was asked for.
        PortTaken,
        /// The class does not let this port be asked for.
        PortNotAllowed,
        /// No port, listener or load balancer is left in the class.
        PoolExhausted,
        /// The namespace has as many ports as the class lets it have.
        QuotaExceeded,
        /// The class may not be used from this namespace.
        NotPermitted,
        /// The provider of the class cannot do what was asked for.
        Unsupported,
        /// No load balancer of the class has the address that was asked for.
        AddressUnknown,
        /// The SharedLB that a source would create exists: it belongs to another
        /// owner, or is being deleted and kept by a finalizer.
        NameTaken,
        /// The API server does not take the SharedLB of a source.
        Rejected,
        /// The class does not exist.
        NoClass,
        /// No class was named, and none is the default.
        NoDefaultClass,
        /// The provider refuses, or a limit that all load balancers share is used
        /// up. Trying again does not help before that is changed.
        ProviderRefused,
        /// A listener that is not ours holds the port on the load balancer.
        PortInUse,
        /// Somebody else used the room (listeners, targets) that there was on
        /// the load balancer.
        NoRoom,
        /// Why [`ConditionType::Programmed`] is true although traffic does not
        /// go to all backends: there are more than the load balancer can take.
        BackendsLeftOut,
        /// Why [`ConditionType::Ready`] is true although one of the load balancer's
        /// addresses leads to no backend: there is none of its IP family.
        AddressWithoutBackends,
        /// The load balancer has had no address for longer than that should take.
        AddressNotAssigned,
        /// A load balancer that was there is not any more. Of an Event only.
        LoadBalancerGone,
        /// The provider wants fewer requests; it is asked again later.
        Throttled,
        /// The provider does not answer; it is asked again later.
        Unreachable,
        /// It is not done yet.
        Pending,
        /// No backend is ready to take traffic.
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
